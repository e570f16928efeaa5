"""Arguments of command lines, one file a command, turned into calls; torch is imported when a command runs."""
