//! The kernel as the judge: a tree goes through tar and an image, is mounted and compared.

use super::*;

/// Everything `find` and `sha256sum` can say about a tree.
const DESCRIBE: &str = r#"describe() { (cd "$1" && find . -printf '%P %y %m %U %G %s %T@ %n %l\n' | sed -E 's/^( d [0-9]+ [0-9]+ [0-9]+) [0-9]+/\1/; s/^([^ ]+ d [0-9]+ [0-9]+ [0-9]+) [0-9]+/\1/' | LC_ALL=C sort;
 find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum; find . \( -type c -o -type b \) -exec stat -c '%n %t %T' {} + | LC_ALL=C sort;
 getfattr -R -h -d -m - -e hex . 2>/dev/null | LC_ALL=C sort); }"#;

#[test]
fn a_tree_survives_the_kernel() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().display();
    shell(&format!(
        r#"cd {dir}; mkdir -p in/etc in/many in/.hidden 'in/!odd'; cd in
        printf hello >etc/small; head -c 2048 /dev/urandom >etc/edge; head -c 2049 /dev/urandom >etc/over; : >etc/empty
        head -c 3000000 /dev/urandom >large; ln large etc/hard; ln -s ../etc link; ln -s $(printf 'x%.0s' $(seq 3000)) longlink
        head -c 4096 /dev/zero >zero; truncate -s 60M sparse; printf end >>sparse; printf mid | dd of=sparse bs=1 seek=30000000 conv=notrunc status=none
        truncate -s 100000 holes; printf x >>holes; printf x >tail; truncate -s 200000 tail
        mknod null c 1 3; mknod disk b 259 1034567 ; mkfifo pipe; chmod 4755 large; chmod 1777 many; chown 123456:654321 etc/small
        for i in $(seq 3000); do : >many/name-$i-$(printf 'y%.0s' $(seq $((i % 90)))); done; touch "$(printf 'n%.0s' $(seq 255))"
        setfattr -n user.note -v value etc/small; setfattr -n trusted.thing -v 0x000aff etc/small; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 large
        setfattr -n user.big -v 0x$(printf 'ab%.0s' $(seq 3000)) -h etc/over
        touch -d '1969-12-31T23:00:00.25Z' etc/edge; touch -d '2031-01-02T03:04:05.123456789Z' etc"#
    ));
    for (index, format) in
        ["--format=posix --xattrs --xattrs-include=* -S", "--format=posix --xattrs --xattrs-include=*"]
            .iter()
            .enumerate()
    {
        let exclude = if index == 1 { "--exclude=./sparse" } else { "" };
        shell(&format!("cd {dir}; rm -rf layer.tar; tar {format} {exclude} -cf layer.tar -C in ."));
        let layer = std::fs::read(temp.path().join("layer.tar")).unwrap();
        let image = temp.path().join(format!("image{index}"));
        flatten_to(&[layer], &image, &Limits::default()).unwrap();
        let image = image.display();
        shell(&format!("fsck.erofs {image}"));
        let difference = shell(&format!(
            r#"{DESCRIBE}; cd {dir}; mkdir -p mnt; mount -o loop,ro -t erofs {image} mnt; trap 'umount mnt' EXIT
            {} ; describe in >a; describe mnt >b; test -s a; diff a b | head -50 || true"#,
            if index == 1 { "rm in/sparse; touch -r mnt in" } else { "true" }
        ));
        assert_eq!(difference, "");
    }
}

#[test]
fn a_sparse_file_of_10_gib_costs_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().display();
    shell(&format!(
        "mkdir {dir}/in; cd {dir}/in; truncate -s 10G sparse; printf end >>sparse; printf mid | dd of=sparse bs=1 seek=5000000000 conv=notrunc status=none"
    ));
    for (format, image) in [("posix", "image-pax"), ("gnu", "image-gnu")] {
        shell(&format!("cd {dir}; tar --format={format} -S -cf layer.tar -C in ."));
        let layer = std::fs::read(temp.path().join("layer.tar")).unwrap();
        flatten_to(&[layer], &temp.path().join(image), &Limits::default()).unwrap();
        let seen = shell(&format!(
            "cd {dir}; mkdir -p mnt; mount -o loop,ro -t erofs {image} mnt; trap 'umount mnt' EXIT
            stat -c %s mnt/sparse; tail -c 5 mnt/sparse | od -An -c; dd if=mnt/sparse bs=1 skip=4999999999 count=5 status=none | od -An -c; du -k {image} | cut -f1"
        ));
        let mut lines = seen.lines();
        assert_eq!(lines.next(), Some("10737418243"));
        assert_eq!(
            lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["\\0", "\\0", "e", "n", "d"]
        );
        assert_eq!(
            lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["\\0", "m", "i", "d", "\\0"]
        );
        assert!(lines.next().unwrap().parse::<u64>().unwrap() < 512, "{seen}");
    }
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let layers = [
        Archive::default().file("b", "1").dir("a").file("a/c", &"x".repeat(5000)).symlink("l", "a").end(),
        Archive::default().file("a/.wh.c", "").file("d", &"y".repeat(9000)).hard_link("e", "d").end(),
    ];
    for image in ["one", "two"] {
        flatten_to(&layers, &temp.path().join(image), &Limits::default()).unwrap();
    }
    let read = |image| std::fs::read(temp.path().join(image)).unwrap();
    assert!(read("one") == read("two"));
}
