"""The command lines: arguments in, exit codes out."""
