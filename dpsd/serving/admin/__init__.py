"""The operator's side of a service: a dashboard and admin routes, on a port of their own."""
