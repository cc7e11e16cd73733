#!/usr/bin/env bash
# Builds packages from target/release/tamada. The contents are defined here once for all kinds.
#   package.sh deb|rpm|tarball [--program FILE] [--out FOLDER] [--fast]
# Debian packages need dpkg-deb, rpms rpmbuild. The packages go to target/packages, and their paths are printed. --fast: Debian
# packages with little compression, for tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "package.sh: $*" >&2 && exit 1; }

target=${CARGO_TARGET_DIR:-target}
kind=${1:-}
program=$target/release/tamada
out=$target/packages
# Every dpkg since Debian bookworm can unpack it.
compression=(-Zxz)
[ $# -eq 0 ] || shift
while [ $# -gt 0 ]; do
    case $1 in
    --program) program=$2 ;;
    --out) out=$2 ;;
    --fast) compression=(-Zgzip -z1) && shift && continue ;;
    *) die "unknown argument '$1'" ;;
    esac
    shift 2
done
case $kind in
deb | rpm | tarball) ;;
*) die "say what to make: deb, rpm or tarball" ;;
esac
[ -x "$program" ] || die "there is no $program: run 'make release' first"

version=$(sed -nE '/^\[workspace.package\]/,/^\[/s/^version = "(.*)"/\1/p' Cargo.toml)
patroni=$(sed -nE 's/.*PATRONI_VERSION: &str = "(.*)".*/\1/p' src/lib.rs)
maintainer="${DEBFULLNAME:-The Tamada authors} <${DEBEMAIL:-tamada@localhost.localdomain}>"
# The same tree gives the same packages.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || date +%s)}"
export SOURCE_DATE_EPOCH
summary="high availability for PostgreSQL, compatible with Patroni"
description="An agent beside each PostgreSQL server elects one primary, keeps the replicas
streaming, and fails over within seconds. A guard process prevents two primaries
if the agent fails. Tamada uses Patroni's configuration files, keys in the DCS,
REST API and commands."
compat_summary="Tamada with the names of Patroni's programs"
compat_description="Links with the names patroni, patronictl, patroni_aws, patroni_barman,
patroni_wale_restore and pg_createconfig_patroni, and the units
patroni@.service and patroni.service, so that existing scripts and units run
Tamada instead of Patroni."

mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

# ---- what is in the packages

# put MODE FOLDER FILE...
put() {
    local mode=$1 folder=$2
    shift 2
    mkdir -p "$folder"
    install -m "$mode" "$@" "$folder"
}

stage_program() {
    local root=$1 side
    put 755 "$root/usr/bin" "$program"
    mv "$root/usr/bin/$(basename "$program")" "$root/usr/bin/tamada" 2>/dev/null || true
    strip --strip-unneeded "$root/usr/bin/tamada"
    put 644 "$root/usr/share/tamada" packaging/debian/config.yml.in packaging/debian/dcs.yml
    [ ! -d packaging/monitoring ] || put 644 "$root/usr/share/tamada/monitoring" packaging/monitoring/*
    put 644 "$root/usr/share/doc/tamada" README.md docs/*.md docs/*.svg
    put 644 "$root/usr/share/doc/tamada/examples" packaging/hardening.conf
    [ ! -d packaging/haproxy ] || put 644 "$root/usr/share/doc/tamada/examples" packaging/haproxy/*
    mkdir "$root/usr/share/tamada/schema"
    for side in local dynamic; do
        "$program" config schema "$side" >"$root/usr/share/tamada/schema/$side.json"
    done
    put 644 "$root/usr/share/man/man1" packaging/man/tamada*.1
    gzip -9n "$root"/usr/share/man/man1/*.1
    completions "$root" tamada
}

# The program prints the script for each shell (documentation of clap_complete, "env").
completions() {
    local root=$1 name=$2 shell folder file
    for shell in bash zsh fish; do
        case $shell in
        bash) folder=usr/share/bash-completion/completions file=$name ;;
        zsh) folder=usr/share/zsh/vendor-completions file=_$name ;;
        fish) folder=usr/share/fish/vendor_completions.d file=$name.fish ;;
        esac
        mkdir -p "$root/$folder"
        (COMPLETE=$shell exec -a "$name" "$program") >"$root/$folder/$file"
    done
}

stage_units() {
    local root=$1
    put 644 "$root/usr/lib/systemd/system" systemd/tamada.service systemd/tamada@.service
    mkdir -p "$root/etc/tamada"
}

stage_compat() {
    local root=$1
    mkdir -p "$root/usr/bin" "$root/usr/share/patroni"
    ln -s tamada "$root/usr/bin/patroni"
    ln -s tamada "$root/usr/bin/patronictl"
    ln -s tamada "$root/usr/bin/pg_createconfig_patroni"
    ln -s tamada "$root/usr/bin/patroni_barman"
    ln -s tamada "$root/usr/bin/patroni_wale_restore"
    ln -s tamada "$root/usr/bin/patroni_aws"
    ln -s ../../bin/tamada "$root/usr/share/patroni/pg_createcluster_patroni"
    ln -s ../../bin/tamada "$root/usr/share/patroni/pg_clonecluster_patroni"
    put 644 "$root/usr/lib/systemd/system" systemd/patroni.service systemd/patroni@.service
    put 644 "$root/usr/share/man/man1" packaging/man/{patroni*,pg_*}.1
    gzip -9n "$root"/usr/share/man/man1/*.1
    completions "$root" patroni
    completions "$root" patronictl
}

# The newest version of glibc that the program needs.
glibc() {
    objdump -T "$1" | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1 | cut -d_ -f2
}

# ---- Debian

# doc ROOT PACKAGE: the files that Debian policy requires.
debian_doc() {
    local folder=$1/usr/share/doc/$2
    mkdir -p "$folder"
    {
        printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: tamada\n\n'
        printf 'Files: *\nCopyright: 2026 The Tamada authors\nLicense: Expat\n\nLicense: Expat\n'
        sed -n '5,$p' LICENSE | sed 's/^$/./; s/^/ /'
    } >"$folder/copyright"
    {
        printf 'tamada (%s-1) unstable; urgency=medium\n\n' "$version"
        printf '  * See CHANGELOG.md.\n\n -- %s  %s\n' "$maintainer" "$(date -uRd "@$SOURCE_DATE_EPOCH")"
    } | gzip -9n >"$folder/changelog.Debian.gz"
    mkdir -p "$1/usr/share/lintian/overrides"
    {
        echo "# Not uploaded to Debian, so nobody has asked for it there, and who builds it is who DEBEMAIL says."
        printf '%s: initial-upload-closes-no-bugs *\n%s: bogus-mail-host *\n' "$2" "$2"
        printf '%s: bogus-mail-host-in-debian-changelog *\n' "$2"
    } >"$1/usr/share/lintian/overrides/$2"
}

# build ROOT: the file's path.
build_deb() {
    local root=$1 name architecture file
    (cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
    name=$(sed -n 's/^Package: //p' "$root/DEBIAN/control")
    architecture=$(sed -n 's/^Architecture: //p' "$root/DEBIAN/control")
    file=$out/${name}_$version-1_$architecture.deb
    find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    # With one thread the result is the same on all machines.
    dpkg-deb --root-owner-group --threads-max=1 "${compression[@]}" --build "$root" "$file" >/dev/null
    echo "$file"
}

# Fields that all packages share; ROOT is the package's tree.
debian_fields() {
    printf 'Version: %s-1\nMaintainer: %s\nSection: database\nPriority: optional\n' "$version" "$maintainer"
    printf 'Installed-Size: %s' "$(du -sk --exclude=DEBIAN "$1" | cut -f1)"
}

make_deb() {
    local root sums
    command -v dpkg-deb >/dev/null || die "there is no dpkg-deb here"
    root=$work/tamada
    stage_program "$root"
    stage_units "$root"
    debian_doc "$root" tamada
    install -m 644 packaging/debian/README.Debian "$root/usr/share/doc/tamada/"
    gzip -9nc CHANGELOG.md >"$root/usr/share/doc/tamada/changelog.gz"
    mkdir "$root/DEBIAN"
    cat >"$root/DEBIAN/control" <<CONTROL
Package: tamada
Architecture: $(dpkg --print-architecture)
Depends: libc6 (>= $(glibc "$root/usr/bin/tamada")), libgcc-s1
Recommends: iproute2, postgresql-common
Suggests: postgresql, etcd-server, haproxy
$(debian_fields "$root")
Description: $summary
$(sed 's/^/ /' <<<"$description")
CONTROL
    install -m 755 packaging/debian/tamada.postinst "$root/DEBIAN/postinst"
    sed "s/@UNITS@/'tamada*.service'/" packaging/debian/prerm >"$root/DEBIAN/prerm"
    chmod 755 "$root/DEBIAN/prerm"
    install -m 755 packaging/debian/tamada.postrm "$root/DEBIAN/postrm"
    build_deb "$root"

    root=$work/tamada-patroni-compat
    stage_compat "$root"
    debian_doc "$root" tamada-patroni-compat
    mkdir "$root/DEBIAN"
    cat >"$root/DEBIAN/control" <<CONTROL
Package: tamada-patroni-compat
Architecture: all
Depends: tamada (>= $version-1)
Provides: patroni (= $patroni)
Conflicts: patroni
Replaces: patroni
$(debian_fields "$root")
Description: $compat_summary
$(sed 's/^/ /' <<<"$compat_description")
CONTROL
    sums=$(cd packaging/debian && sha256sum dcs.yml config.yml.in | cut -d' ' -f1 | paste -sd'|' | sed 's/|/ | /g')
    install -m 755 packaging/debian/tamada-patroni-compat.postinst "$root/DEBIAN/postinst"
    sed "s/@UNITS@/'patroni*.service'/" packaging/debian/prerm >"$root/DEBIAN/prerm"
    sed "s/@SUMS@/$sums/" packaging/debian/tamada-patroni-compat.postrm >"$root/DEBIAN/postrm"
    chmod 755 "$root/DEBIAN/prerm" "$root/DEBIAN/postrm"
    build_deb "$root"
}

# ---- rpm

# list ROOT [FOLDER]: the files below, as %files wants them.
list_files() {
    (cd "$1" && find . ! -type d -printf '/%P\n' | sort | sed 's/\.1\.gz$/.1*/')
}

make_rpm() {
    local root=$work/root compat=$work/compat folder=/usr/share/doc/tamada
    command -v rpmbuild >/dev/null || die "there is no rpmbuild here; Debian has it in the package rpm"
    stage_program "$root"
    stage_units "$root"
    install -m 644 LICENSE CHANGELOG.md "$root$folder/"
    stage_compat "$compat"
    # The community's packages for these systems have Patroni's configuration here.
    sed -i 's,/etc/patroni/config.yml,/etc/patroni/patroni.yml,' "$compat/usr/lib/systemd/system/patroni.service"
    # Debian's postgresql-common is not there.
    rm -r "$compat/usr/bin/pg_createconfig_patroni" "$compat/usr/share/patroni"
    cat >"$work/tamada.spec" <<SPEC
Name: tamada
Version: $version
Release: 1
Summary: $summary
License: MIT
Recommends: iproute
# The files are as they shall be.
AutoReqProv: no
Requires: libc.so.6(GLIBC_$(glibc "$root/usr/bin/tamada"))(64bit), libgcc_s.so.1()(64bit)
%global __os_install_post %{nil}
%global debug_package %{nil}
%global source_date_epoch_from_changelog 0
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1

%description
$description

%package patroni-compat
Summary: $compat_summary
BuildArch: noarch
Requires: tamada >= $version
Provides: patroni = $patroni
Conflicts: patroni

%description patroni-compat
$compat_description

%install
cp -a $root/. %{buildroot}/
cp -a $compat/. %{buildroot}/

%files
%dir /etc/tamada
$(list_files "$root")

%files patroni-compat
$(list_files "$compat")

%post
[ ! -d /run/systemd/system ] || systemctl daemon-reload || :
%preun
# Without the unit's file systemd no longer listens to the agent, but it would still end it when WatchdogSec has passed.
if [ "\$1" = 0 ] && [ -d /run/systemd/system ]; then
    for unit in \$(systemctl list-units --plain --no-legend --state=active 'tamada*.service' 2>/dev/null | cut -d' ' -f1); do
        pid=\$(systemctl show --property=MainPID --value "\$unit")
        NOTIFY_SOCKET=/run/systemd/notify systemd-notify --pid="\$pid" WATCHDOG_USEC=0 || :
    done
fi
%postun
[ ! -d /run/systemd/system ] || systemctl daemon-reload || :
%post patroni-compat
[ ! -d /run/systemd/system ] || systemctl daemon-reload || :
%preun patroni-compat
# Without the unit's file systemd no longer listens to the agent, but it would still end it when WatchdogSec has passed.
if [ "\$1" = 0 ] && [ -d /run/systemd/system ]; then
    for unit in \$(systemctl list-units --plain --no-legend --state=active 'patroni*.service' 2>/dev/null | cut -d' ' -f1); do
        pid=\$(systemctl show --property=MainPID --value "\$unit")
        NOTIFY_SOCKET=/run/systemd/notify systemd-notify --pid="\$pid" WATCHDOG_USEC=0 || :
    done
fi
%postun patroni-compat
[ ! -d /run/systemd/system ] || systemctl daemon-reload || :
SPEC
    rpmbuild --quiet -bb --define "_topdir $work/rpm" --define "_rpmdir $work/rpms" \
        --define "_build_id_links none" "$work/tamada.spec"
    find "$work/rpms" -name '*.rpm' -exec cp {} "$out/" \; -printf "$out/%f\n"
}

# ---- tarball

make_tarball() {
    local name root
    name=tamada-$version-$(uname -m)-linux
    root=$work/$name
    stage_program "$work/staged"
    put 755 "$root/bin" "$work/staged/usr/bin/tamada"
    put 644 "$root/systemd" systemd/*
    cp -a "$work/staged/usr/share" "$root/share"
    install -m 644 packaging/INSTALL.md LICENSE CHANGELOG.md "$root/"
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$work" -cJf "$out/$name.tar.xz" \
        "$name"
    echo "$out/$name.tar.xz"
}

"make_$kind"
