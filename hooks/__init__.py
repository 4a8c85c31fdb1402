"""Ready evaluate hooks for the project file: each applies another program, which is imported only when it is used.

They take the folder of a model and give metrics by name, as a user's own hook does.
"""
