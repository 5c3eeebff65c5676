"""What the wing knows: services and who may reach them, credits, and the faces of its parts."""
