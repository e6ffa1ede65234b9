"""Jobs that are called one by one."""
