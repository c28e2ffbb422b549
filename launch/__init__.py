"""How a pod is started: GKE, Cloud TPU VMs, SLURM, and several processes on this machine.

Run from the checkout: `python -m launch.gke --help`. Every launcher takes `--dry-run`, which prints what it would do,
and does nothing.
"""
