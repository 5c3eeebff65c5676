"""Looks at an installation, and says what is wrong with it and how to mend that.

findings    what a check finds
patient     the system that is looked at: its files, its users, its bus
checks      the one list of checks, and making them: a new one is a function in one of these
bus         the bus, our names on it, and whether it follows our policies
polkit      whether polkit knows our actions, and lets our users ask
units       systemd's view of our services and sockets
places      what is installed where, and whether it is as it was shipped
people      our users, and who is in their groups
devices     what is plugged in, and whether it is the daemon's
wings       what daemons that run say of their wings
versions    what else takes part
"""
