"""The command line: one file a command group, each a thin layer over what a program could call too."""
