# Copyright The otelcol-llamacpp Authors
# SPDX-License-Identifier: Apache-2.0

# Boots the system in BASE, on top of which all changes are in memory, and waits until it ends. Runs in a mount
# namespace of its own. Usage: bash boot.sh BASE FOLDER: in FOLDER/pid is the number of its systemd.
set -eu
base=$1 folder=$2

mount -t tmpfs -o mode=755 tmpfs "$folder/memory"
cd "$folder/memory"
mkdir upper work root cgroup
mount -t overlay -o "lowerdir=$base,upperdir=upper,workdir=work" overlay root
echo "127.0.0.1 localhost" >root/etc/hosts
: >root/etc/resolv.conf

# A control group for systemd to manage: the root of what it sees.
mount -t cgroup2 cgroup2 cgroup
group=$PWD/cgroup/machine-$$
mkdir "$group"
leave() {
	echo $$ >cgroup/cgroup.procs
	find "$group" -depth -type d -exec rmdir {} +
}
echo $$ >"$group/cgroup.procs"

# setpriv: it ends with this script, however that ends.
setpriv --pdeathsig KILL unshare --pid --fork --kill-child --uts --ipc --net --cgroup bash -eu -c '
	cd root
	mount -t proc proc proc
	mount -t sysfs -o ro sysfs sys
	mount -t cgroup2 cgroup2 sys/fs/cgroup
	mount -t tmpfs -o mode=755 tmpfs dev
	mount -t tmpfs -o mode=755 tmpfs run
	mkdir dev/pts dev/shm
	mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
	ln -s pts/ptmx dev/ptmx
	for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
		set -- $node
		mknod -m 666 "dev/$1" c "$2" "$3"
	done
	exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		chroot . /usr/lib/systemd/systemd --unit=basic.target --show-status=no --log-target=journal
' <&- &
unshare=$!
trap 'kill -KILL $unshare' TERM
while ! init=$(cat "/proc/$unshare/task/$unshare/children") || [ -z "$init" ]; do sleep 0.02; done
echo "$init" >"$folder/pid.new"
mv "$folder/pid.new" "$folder/pid"
wait $unshare || true
wait $unshare || true
# The last processes are on their way out.
for _ in $(seq 100); do leave 2>/dev/null && exit; sleep 0.05; done
leave
