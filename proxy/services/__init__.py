"""What the proxy does, one verb a module. Services know ports, never adapters."""
