"""SLURM's variables, as its manual and a real cluster write them."""

# tests/slurm compares these with what SLURM itself says
NODE_LISTS = {
    "n1": ["n1"],
    "n1,n2": ["n1", "n2"],
    "n[01-03,07]": ["n01", "n02", "n03", "n07"],
    "n[8-11]": ["n8", "n9", "n10", "n11"],
    "n[098-101]": ["n098", "n099", "n100", "n101"],
    "gpu-a[1-2],login,gpu-b3": ["gpu-a1", "gpu-a2", "login", "gpu-b3"],
    "n[3,1]": ["n3", "n1"],
    "rack[1-2]n[1-2]": ["rack1n1", "rack1n2", "rack2n1", "rack2n2"],
}

# the second node of four, with 2, 2, 2 and 1 tasks
STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "n[01-03,07]",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
}
