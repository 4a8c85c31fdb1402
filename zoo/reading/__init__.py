"""Reading a checkpoint that nobody vouches for: child processes with limits, budgets before any tensor.

Takes paths, gives the contents of each file or the reason why it is refused. The parent process only ever sees JSON
and numbers.
"""
