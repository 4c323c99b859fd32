"""Secure execution on SecretFlow-SPU: the only part of the package that imports spu."""

import os

# SPU asks Eigen for four threads a matrix product whatever the machine has. With several parties on few cores they wait
# for each other in spin loops: up to ten times slower. OpenMP reads its limit once, when spu is first imported.
os.environ.setdefault("OMP_THREAD_LIMIT", str(max(1, (os.cpu_count() or 1) // 3)))
