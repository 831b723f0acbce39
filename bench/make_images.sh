#!/bin/bash
# Make the images that bench/convert.py measures, as OCI layout directories, from Debian, PyPI and npm packages.
#
#   make_images.sh DIR [small] [medium] [nodejs]        (all three when none is named)
#
# Needs root (devices, owners, chroot) and Debian's debootstrap, umoci, attr, npm, plus python3 with pip.
# Versions are what the package indexes give today, so sizes drift a little; compare runs on one set of images.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
umask 022

out=$(realpath -m "${1:?usage: make_images.sh DIR [small] [medium] [nodejs]}")
shift
here=$(dirname "$(realpath "$0")")
work=$out/work
mirror=${DEBIAN_MIRROR:-}
mkdir -p "$work"

# An empty image at $out/NAME and its unpacked bundle; later steps change $root and call `layer`.
start() {
    name=$1 bundle=$work/$1.bundle root=$work/$1.bundle/rootfs
    rm -rf "${out:?}/$name" "$bundle"
    umoci init --layout "$out/$name"
    umoci new --image "$out/$name:latest"
    umoci unpack --image "$out/$name:latest" "$bundle"
}

layer() {
    umoci repack --refresh-bundle --image "$out/$name:latest" "$bundle"
}

finish() {
    umoci gc --layout "$out/$name"
    rm -rf "$bundle"
    python3 "$here/layout.py" "$out/$name" | tee -a "$out/READY"
}

# Debian itself, bootstrapped once for both large images.
debian() {
    if [ ! -e "$work/debian.done" ]; then
        rm -rf "$work/debian"
        debootstrap --variant=minbase bookworm "$work/debian" ${mirror:+"$mirror"}
        # as public base images do
        rm -rf "$work"/debian/var/{cache/apt/archives/*.deb,lib/apt/lists/*,log/*.log} "$work"/debian/usr/share/man/*
        touch "$work/debian.done"
    fi
    cp -a "$work/debian/." "$root/"
}

install() {
    mount -t proc proc "$root/proc"
    trap 'umount "$root/proc"' EXIT
    chroot "$root" apt-get -q update
    chroot "$root" apt-get -q -o APT::Install-Recommends=false -y install "$@"
    trap - EXIT
    umount "$root/proc"
    rm -rf "$root"/var/{cache/apt/archives/*.deb,cache/apt/*.bin,lib/apt/lists/*}
}

pip_install() {
    python3 -m pip install -q --disable-pip-version-check --only-binary :all: --python-version 3.11 --upgrade \
        --target "$root/usr/local/lib/python3.11/dist-packages" "$@"
}

small() {
    start small
    mkdir -p "$root"/{bin,etc,root,tmp,usr/bin,var/log} "$work/busybox"
    (cd "$work/busybox" && apt-get download busybox-static && dpkg-deb -x busybox-static_*.deb .)
    cp -p "$work/busybox/bin/busybox" "$root/bin/busybox"
    chmod 1777 "$root/tmp"
    "$root/bin/busybox" --list | while read -r applet; do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
        ln -s ../../bin/busybox "$root/usr/bin/$applet"
    done
    layer
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    ln "$root/etc/passwd" "$root/etc/passwd-"
    seq 1 20000 >"$root/var/log/numbers"
    mkdir "$root/srv" && echo hello >"$root/srv/index.html"
    layer
    rm "$root/bin/telnet" "$root/bin/tftp" "$root/usr/bin/telnet"
    echo changed >"$root/srv/index.html"
    layer
    finish
}

# One of everything that a tar can hold and a converter can lose.
features() {
    local d=$root/srv/features
    mkdir -p "$d/deep/$(printf 'level/%.0s' {1..40})" "$d/replaced-by-link" "$d/replaced-by-file" "$d/opaque"
    cp "$root/bin/true" "$d/suid" && chmod 4755 "$d/suid"
    cp "$root/bin/true" "$d/sgid" && chmod 2755 "$d/sgid"
    cp "$root/bin/true" "$d/capable"
    setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 "$d/capable" # cap_net_bind_service+p
    for i in {1..20}; do
        echo "$i" >"$d/attr-$i"
        setfattr -n user.bench -v "value $i" "$d/attr-$i"
    done
    setfattr -n trusted.bench -v dir "$d/deep"
    mkfifo "$d/fifo"
    mknod "$d/null" c 1 3
    mknod "$d/block" b 7 0
    truncate -s 20M "$d/sparse"
    echo middle | dd of="$d/sparse" bs=4096 seek=2500 conv=notrunc status=none
    echo long >"$d/$(printf 'n%.0s' {1..250})"
    echo latin1 >"$d/"$'caf\xe9'
    echo newline >"$d/"$'two\nlines'
    echo owner >"$d/owner" && chown 4000000:4000000 "$d/owner"
    echo linked >"$d/linked" && ln "$d/linked" "$d/linked-too"
    for i in {1..50}; do echo "$i" >"$d/opaque/$i"; done
}

medium() {
    start medium
    debian
    layer
    install python3 curl ca-certificates gcc g++ make perl
    layer
    pip_install 'numpy==1.25.2' 'pandas==2.1.4'
    layer
    rm -rf "$root"/usr/local/lib/python3.11/dist-packages/numpy{,.libs,-*}
    pip_install 'numpy==1.26.4' 'scipy==1.12.0'
    layer
    features
    layer
    # Empty directories: for others umoci writes whiteouts below the new symlink, on which the reference fails for v5.
    local d=$root/srv/features
    rmdir "$d/replaced-by-link" "$d/replaced-by-file"
    ln -s deep "$d/replaced-by-link"
    echo file >"$d/replaced-by-file"
    rm -r "$root"/usr/share/doc/[a-c]*
    layer
    # umoci writes plain whiteouts only: the opaque directory comes from a tar made by hand.
    mkdir -p "$work/opaque/srv/features/opaque"
    touch "$work/opaque/srv/features/opaque/.wh..wh..opq"
    echo fresh >"$work/opaque/srv/features/opaque/fresh"
    tar -C "$work/opaque" --owner=0 --group=0 -cf "$work/opaque.tar" srv
    umoci raw add-layer --image "$out/medium:latest" "$work/opaque.tar"
    finish
}

nodejs() {
    start nodejs
    debian
    rm -rf "$root"/usr/share/{doc,locale,info}/* # as the slim variants of public images do
    layer
    install nodejs
    layer
    mkdir -p "$root/app"
    cd "$root/app"
    echo '{"name": "bench", "version": "1.0.0", "private": true}' >package.json
    npm install --silent --ignore-scripts react@18 react-dom@18 @mui/material@5 webpack@5 webpack-cli@5 \
        @babel/core@7 @babel/preset-env@7 typescript@5 lodash@4 rxjs@7 core-js@3 date-fns@2 antd@5 @ant-design/icons@5
    layer
    npm install --silent --ignore-scripts date-fns@3 rxjs@6
    npm uninstall --silent --ignore-scripts webpack-cli
    layer
    cd "$work"
    finish
}

for image in "${@:-small medium nodejs}"; do
    for one in $image; do "$one"; done
done
