"""Makes buswork part of a system, and undoes that.

places      the one table of what goes where
sources     what we have: the shipped files, programs, and what is made of the parsers
files       one file or link of the system: what is there, and putting another one there
manifest    what we placed, so that it can be told from what others made or changed
changes     what is to be done, and doing it
activation  the commands that tell the system about it
"""
