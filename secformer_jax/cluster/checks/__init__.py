"""What `secformer check` looks at before anybody relies on a cluster: its file, a role's keys, and the others."""
