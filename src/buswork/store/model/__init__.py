"""The values, who may touch them, how long they live, and every change in order."""
