"""Text of a user's, such as a name, within Markdown."""

SIGNS = "\\`*_[]<>|#"


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, in a table's cell or a line."""
    escaped = "".join(f"\\{character}" if character in SIGNS else character for character in text)
    return " ".join(escaped.split())
