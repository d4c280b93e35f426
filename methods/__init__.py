"""One file a method, and nothing else: the file's name is the method's name everywhere."""
