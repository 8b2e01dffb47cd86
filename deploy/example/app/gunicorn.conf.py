# Read by gunicorn from the directory where it starts.
bind = "0.0.0.0:8080"
# One process: so one pool of connections to the sidecar, and half a CPU is enough for no more.
worker_class = "gthread"
threads = 8
# The root file system of the container is read-only: the heartbeat goes to memory, and nobody controls it by a socket.
worker_tmp_dir = "/dev/shm"
control_socket_disable = True
