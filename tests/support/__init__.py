"""What tests share: a local cloud, a fork server for jobs, stand-ins for servers, leaks to plant, label tables."""
