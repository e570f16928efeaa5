"""The error that says what a user gave wrongly; one place, since everything raises it. Imports nothing."""


class InputError(ValueError):
    """The user gave something unusable; the message is one line naming the key or file, the value and the way out."""
