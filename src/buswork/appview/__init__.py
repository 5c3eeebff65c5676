"""The wing of processes under AppView: they are asked and configured over their own queues."""
