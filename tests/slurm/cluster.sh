#!/usr/bin/env bash
# A real SLURM cluster on this one machine: a controller and two nodes.
#
#   tests/slurm/cluster.sh DIR      as root; DIR: new, in a folder that everybody may enter. Ends with its input: Ctrl-D
#   DIR/enter sbatch ...            a command on the controller, as soon as DIR/enter is there
#
# The controller and each node live in namespaces of their own (processes, mounts, host name, network), the nodes inside
# the controller's: a job sees other machines, a rendezvous at `localhost` fails, no port or address can be taken, and
# whatever ends the controller ends the whole cluster.
#
# Steps are tracked by cgroups where version 1's freezer can be had: then a signal reaches only the first process of a
# task, as on real clusters, and not what that has started. ProctrackType in DIR/slurm.conf says which it is.
set -euo pipefail

if [ $# = 1 ]; then
    mkdir -m 755 "$1"
    exec unshare --pid --fork --kill-child --mount-proc --mount --uts --net "$0" "$(realpath "$1")" $$
fi
dir=$1 outer_pid=$2 number=${3:-} # node: this cluster's names, no other's, for cgroups are the whole machine's
node=n$outer_pid-
export SLURM_CONF=$dir/slurm.conf
umask 022

# ---- a node ----
if [ "$number" ]; then
    hostname "$node$number"
    ip link set lo up
    ip address add "10.0.0.$number/24" dev eth0
    ip link set eth0 up
    slurmd -D -N "$node$number" & # not instead of this shell: somebody has to reap what outlives its parent
    wait
    exit
fi

# ---- the controller: configuration ----
cgroups=/sys/fs/cgroup
if ! mountpoint -q $cgroups/freezer; then
    cgroups=$dir/cgroup
    mkdir -p "$cgroups/freezer"
    mount -t cgroup -o freezer freezer "$cgroups/freezer" || cgroups=''
fi
mkdir "$dir"/{state,spool,"spool/${node}1","spool/${node}2",log,munge,gpus}
for gpu in {0..7}; do mknod "$dir/gpus/nvidia$gpu" c 1 3; done # as good as /dev/null, but they can be counted
cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=controller(10.0.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# a requeued job starts again after cred_expire + 1 seconds (default 120, minimum 5)
AuthInfo=socket=$dir/munge/socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/$([ "$cgroups" ] && echo cgroup || echo linuxproc)
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
# everything quick, but nothing given up because the machine is busy
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,bf_resolution=1
SlurmctldTimeout=120
SlurmdTimeout=120
KillWait=5
CompleteWait=0
ReturnToService=2
JobRequeue=1
# a job in partition "high" sends those in "main" their own --signal, and requeues them after GraceTime
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=${node}1 NodeAddr=10.0.0.1 CPUs=64 RealMemory=1000000 Gres=gpu:8
NodeName=${node}2 NodeAddr=10.0.0.2 CPUs=64 RealMemory=1000000 Gres=gpu:8
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL DefaultTime=10 PriorityTier=10 PreemptMode=OFF
CONF
echo "NodeName=${node}[1-2] Name=gpu File=$dir/gpus/nvidia[0-7]" > "$dir/gres.conf"
printf '%s\n' CgroupPlugin=cgroup/v1 "CgroupMountpoint=$cgroups" CgroupAutomount=no > "$dir/cgroup.conf"

# ---- the controller: network and daemons ----
hostname controller
printf '%s\n' '127.0.0.1 localhost' "10.0.0.1 ${node}1" "10.0.0.2 ${node}2" '10.0.0.254 controller' > "$dir/hosts"
mount --bind "$dir/hosts" /etc/hosts
ip link set lo up
ip link add switch type bridge
ip address add 10.0.0.254/24 dev switch
ip link set switch up

(umask 077 && head -c 128 /dev/urandom > "$dir/munge/key")
munged --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
slurmctld -D -i 2> "$dir/log/slurmctld.stderr" &
for n in 1 2; do
    touch "$dir/net$n"
    unshare --net="$dir/net$n" true # a network that is there before its processes are
    ip link add "port$n" master switch type veth peer name eth0 netns "$dir/net$n"
    ip link set "port$n" up
    nsenter --net="$dir/net$n" unshare --pid --fork --kill-child --mount-proc --mount --uts \
        "$0" "$dir" "$outer_pid" $n 2> "$dir/log/slurmd.$n.stderr" &
done
until [ "$(sinfo -h -N -p main -o %t | grep -c idle)" = 2 ]; do sleep 0.1; done
cat > "$dir/entering" <<ENTER
#!/bin/sh
exec env SLURM_CONF=$SLURM_CONF nsenter --net=/proc/$outer_pid/ns/net -- "\$@"
ENTER
chmod +x "$dir/entering"
mv "$dir/entering" "$dir/enter"

# ---- the end ----
read -r _ || true
mapfile -t pids < <(jobs -p)
{ kill -KILL "${pids[@]}" && wait; } 2> /dev/null || true # with a node's first process the kernel ends the others
while [ "$cgroups" ] && compgen -G "$cgroups/freezer/slurm_$node*" > /dev/null; do # until the last process has gone
    find "$cgroups"/freezer/slurm_"$node"* -depth -type d -exec rmdir {} \; 2> /dev/null || sleep 0.1
done
