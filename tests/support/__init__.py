"""What tests share: a machine in a mount namespace, callers of other users, a polkit agent."""
