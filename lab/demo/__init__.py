"""A scripted scenario on this machine: servers come and go while a client calls; who serves, what fails, and how soon."""
