"""The jobs behind the commands: they take objects and return objects, the command line prints."""
