"""The project file epsopt.toml: its shape, reading it, writing it, the train command in it."""
