"""Arguments of the commands, one file a command; no torch until one runs."""
