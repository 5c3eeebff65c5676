"""The store wing: named values in memory, shared by every process of the machine."""
