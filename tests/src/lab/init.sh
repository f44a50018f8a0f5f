# Process 1 of a lab: prepares its mounts and network, says "ready", adopts orphans, and ends all with its input.
#
#   bash init.sh LAB_FOLDER BINARY...
set -euo pipefail
lab=$1
shift

mount -t sysfs sysfs /sys # the one that was inherited shows the devices of the machine
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/dbus /run/netns /run/user
# Root's too: without one, programs fall back to a folder in /tmp, which all labs share.
install -d -m 700 /run/user/0
for file in passwd group shadow; do
    mount --bind "$lab/etc/$file" "/etc/$file"
done
while IFS=: read -r _ _ uid gid _ home _; do
    if [[ $home == "$lab"/* ]]; then
        install -d -o "$uid" -g "$gid" -m 700 "/run/user/$uid"
    fi
done <"$lab/etc/passwd"

# Bound, so that the test's users reach them wherever the checkout is.
for binary; do
    touch "$lab/bin/${binary##*/}"
    mount --bind "$binary" "$lab/bin/${binary##*/}"
done

# No duplicate address detection, no router solicitations: their messages would change the table while a test compares it.
for setting in accept_dad=0 router_solicitations=0; do
    for device in all default lo; do
        echo "${setting#*=}" >"/proc/sys/net/ipv6/conf/$device/${setting%=*}"
    done
done
ip link set lo up

echo ready
while read -r _; do :; done
