//! Paths of entries: taken apart, checked, and walked inside the tree.
//!
//! Invariant: a walk starts at the tree's root and `..` in a link's target ends there, as in a chroot.

use std::collections::{BTreeMap, VecDeque};

use super::{Link, Node, NodeId, NodeKind, ROOT, Tree, missing_directory};
use crate::layer::LayerError;
use crate::limits::Limits;

/// Links followed in one walk, as Linux has it.
const MAX_LINKS: usize = 40;

/// Longest name (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// An entry's path as components; empty for the root itself.
pub(super) fn components(path: &[u8], limits: &Limits) -> Result<Vec<Box<[u8]>>, LayerError> {
    if path.starts_with(b"/") {
        let why = "absolute path: the image is broken or hostile; rebuild it with relative paths";
        return Err(LayerError::entry(path, why));
    }
    relative_components(path, limits)
}

/// A hard link's target as components: Docker's archives may write it from the root.
pub(super) fn link_components(path: &[u8], limits: &Limits) -> Result<Vec<Box<[u8]>>, LayerError> {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    relative_components(path.get(start..).unwrap_or_default(), limits)
}

fn relative_components(path: &[u8], limits: &Limits) -> Result<Vec<Box<[u8]>>, LayerError> {
    if path.is_empty() || path.contains(&0) {
        return Err(LayerError::entry(path, "empty path or one with a NUL byte: the archive is broken"));
    }
    if path.len() > limits.max_path_len {
        let bound = limits.max_path_len;
        let why = format!("path longer than {bound} bytes; raise max_path_len if you trust this image");
        return Err(LayerError::entry(path, why));
    }
    let mut components = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                let why = "'..' in its path: the image is broken or hostile and was refused";
                return Err(LayerError::entry(path, why));
            }
            name if name.len() > MAX_NAME => {
                return Err(LayerError::entry(path, "name longer than 255 bytes, which Linux cannot hold"));
            }
            name => components.push(name.into()),
        }
    }
    Ok(components)
}

/// What a walk does where a directory is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make it: the entry was written without its parents.
    Create,
    /// End: there is nothing.
    Stop,
}

impl Tree {
    /// Walks to a directory, following symbolic links inside the tree. `None` when it is not there.
    pub(super) fn walk(
        &mut self,
        path: &[u8],
        directories: &[Box<[u8]>],
        missing: Missing,
    ) -> Result<Option<NodeId>, LayerError> {
        let mut todo: VecDeque<Box<[u8]>> = directories.iter().cloned().collect();
        let mut stack: Vec<NodeId> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            let here = stack.last().copied().unwrap_or(ROOT);
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    stack.pop();
                    continue;
                }
                _ => {}
            }
            let Some(node) = self.step(here, &name, missing)? else { return Ok(None) };
            match self.nodes.get(node).map(|node| &node.kind) {
                Some(NodeKind::Directory(_)) => stack.push(node),
                Some(NodeKind::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(LayerError::entry(path, "too many symbolic links in its parents"));
                    }
                    if target.starts_with(b"/") {
                        stack.clear();
                    }
                    for component in target.split(|byte| *byte == b'/').rev() {
                        todo.push_front(component.into());
                    }
                }
                _ if missing == Missing::Stop => return Ok(None),
                _ => {
                    let why = "one of its parents is not a directory: the image is broken";
                    return Err(LayerError::entry(path, why));
                }
            }
        }
        Ok(Some(stack.last().copied().unwrap_or(ROOT)))
    }

    /// One name down, which this layer thereby has too.
    fn step(&mut self, here: NodeId, name: &[u8], missing: Missing) -> Result<Option<NodeId>, LayerError> {
        let layer = self.layer;
        let link = self.children_mut(here).and_then(|children| children.get_mut(name));
        match link {
            Some(link) => {
                if missing == Missing::Create {
                    link.layer = layer;
                }
                Ok(Some(link.node))
            }
            None if missing == Missing::Stop => Ok(None),
            None => {
                if name.len() > MAX_NAME {
                    let why = "name longer than 255 bytes, which Linux cannot hold";
                    return Err(LayerError::entry(name, why));
                }
                self.charge(name.len() + 64)?;
                let kind = NodeKind::Directory(BTreeMap::new());
                let node = self.add_node(Node { meta: missing_directory(), kind, names: 1 })?;
                if let Some(children) = self.children_mut(here) {
                    children.insert(name.into(), Link { node, layer });
                }
                Ok(Some(node))
            }
        }
    }
}
