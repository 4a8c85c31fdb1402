"""The scheduler: which step of the loop comes next, how reliable its predicted gains are, what to prune."""
