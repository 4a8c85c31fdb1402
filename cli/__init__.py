"""The command line: one small file per command, which parses, calls the rooms and prints.

Results go to standard output, as a table or (``--json``) as one document that docs/schemas describes; everything else
goes to standard error. Heavy imports wait inside the functions, so that ``--help`` answers at once.
"""
