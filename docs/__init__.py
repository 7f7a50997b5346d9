"""The documents, and the module that writes two of them from the code."""
