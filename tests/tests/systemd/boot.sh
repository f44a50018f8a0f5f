# Process 1 below a lab: the machine's own systemd with dbus, polkit and what `installers/linux` installs, and nothing else.
#
#   bash boot.sh FOLDER INSTALLERS HELPER        in namespaces of its own but the network's, at the root of its cgroups
set -euo pipefail
folder=$1 installers=$2 helper=$3

mount -t cgroup2 cgroup2 /sys/fs/cgroup
# systemd raises limits of the whole machine at its start.
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
# And makes links and terminals.
mkdir "$folder/dev"
for device in full null random tty urandom zero; do
    touch "$folder/dev/$device"
    mount --bind "/dev/$device" "$folder/dev/$device"
done
ln -s pts/ptmx "$folder/dev/ptmx"
# Where its messages go.
touch "$folder/dev/kmsg"
mount --rbind "$folder/dev" /dev

# Installed as they are; what this machine has of minitunnel's is none of the lab's.
layer=$folder/usr
mkdir -p "$layer"
mount -t tmpfs -o mode=755 tmpfs "$layer"
mkdir "$layer"/{upper,work}
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$layer/upper,workdir=$layer/work" /usr
find /usr/share/{dbus-1,polkit-1} -name '*minitunnel*' -delete
install -D "$helper" /usr/local/libexec/minitunnel-helper
install -D -m 644 -t /usr/share/dbus-1/system.d "$installers"/dbus/*.conf
install -D -m 644 -t /usr/share/dbus-1/system-services "$installers"/dbus/*.service
install -D -m 644 -t /usr/share/polkit-1/actions "$installers"/polkit/*.policy
# Nobody is asked: the questions are another test's.
install -d /usr/share/polkit-1/rules.d
cat >/usr/share/polkit-1/rules.d/00-lab.rules <<'END'
polkit.addRule(function(action, subject) {
    if (action.id == "io.github.minitunnel.apply") return polkit.Result.YES;
});
END

units=/run/units
mkdir "$units"
cp /usr/lib/systemd/system/{dbus.service,dbus.socket,polkit.service} "$installers"/systemd/*.service "$units"
for target in basic shutdown sockets sysinit; do
    printf '%s\n' '[Unit]' 'DefaultDependencies=no' >"$units/$target.target"
done
printf '%s\n' '[Unit]' 'DefaultDependencies=no' 'Requires=dbus.socket' 'After=dbus.socket' >"$units/lab.target"
# `PrivateTmp` makes folders there. The lab's own stays where it is.
lab=$(dirname "$folder")
mkdir -p "$folder/tmp/${lab##*/}"
mount --bind "$folder/tmp" /var/tmp
mount --rbind "$lab" "$folder/tmp/${lab##*/}"
mount --rbind "$folder/tmp" /tmp
exec env -i container=lab "SYSTEMD_UNIT_PATH=$units" \
    /usr/lib/systemd/systemd --system --unit=lab.target --log-target=kmsg --show-status=no
