# Lists a tree, one line for each file: everything that an image says about it. Run on both sides of a comparison.
import hashlib, os, stat, sys

root = sys.argv[1].encode()
# A container has these of its own.
own = {b"dev", b"proc", b"sys", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"}
links = {}
# An overlay file system has an inode of its own for what was changed: what counts is which names share one.
files = []
for path, directories, names in os.walk(root):
    below = os.path.relpath(path, root)
    for name in sorted(directories + names):
        inside = os.path.normpath(os.path.join(below, name))
        if inside in own:
            if name in directories:
                directories.remove(name)
            continue
        full = os.path.join(path, name)
        found = os.lstat(full)
        if not stat.S_ISDIR(found.st_mode) and found.st_nlink > 1:
            links.setdefault((found.st_dev, found.st_ino), []).append(inside)
        files.append((inside, full, found))
first = {inode: min(names) for inode, names in links.items()}
for inside, full, found in sorted(files):
    mode = found.st_mode
    line = [inside.decode("latin-1"), oct(mode), found.st_uid, found.st_gid]
    if not stat.S_ISDIR(mode):
        line += [found.st_size, found.st_mtime_ns]
    if stat.S_ISLNK(mode):
        line.append(os.readlink(full).decode("latin-1"))
    elif stat.S_ISREG(mode):
        digest = hashlib.sha256()
        with open(full, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        line.append(digest.hexdigest())
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        line.append((os.major(found.st_rdev), os.minor(found.st_rdev)))
    names = [] if stat.S_ISLNK(mode) else sorted(os.listxattr(full, follow_symlinks=False))
    line.append([(name, os.getxattr(full, name).hex()) for name in names if not name.startswith(("trusted.", "user.rootless"))])
    line.append(first.get((found.st_dev, found.st_ino), "").decode("latin-1") if (found.st_dev, found.st_ino) in first else "")
    print(ascii(line))
