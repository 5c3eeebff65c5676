from client.conftest import bus, shared_bus

__all__ = ["bus", "shared_bus"]
