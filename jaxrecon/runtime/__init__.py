"""How inference runs: programs compiled for shapes and devices, their memory, and the mesh."""
