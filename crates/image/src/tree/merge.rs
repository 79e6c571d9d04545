//! Entries of a layer, put into the tree over what lower layers left.
//!
//! Invariant: the counts of names are right at every step, so that data is freed with its last name.

use super::resolve::{Missing, components, link_components};
use super::{Link, Node, NodeId, NodeKind, ROOT, Tree};
use crate::layer::LayerError;
use crate::layer::records::Meta;

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry's name says about lower layers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whiteout {
    /// Nothing: an ordinary entry.
    None,
    /// It hides something, or is a marker of an older union file system: done with.
    Applied,
}

impl Tree {
    /// Acts on an entry that is a whiteout or an opaque marker; refuses a path that is not to be followed.
    pub(crate) fn apply_whiteout(&mut self, path: &[u8]) -> Result<Whiteout, LayerError> {
        let components = components(path, &self.limits)?;
        let Some((name, parents)) = components.split_last() else { return Ok(Whiteout::None) };
        let Some(hidden) = name.strip_prefix(PREFIX) else { return Ok(Whiteout::None) };
        let Some(directory) = self.walk(path, parents, Missing::Stop)? else { return Ok(Whiteout::Applied) };
        if **name == *OPAQUE {
            self.hide_below(directory);
        } else if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerError::entry(path, "whiteout of nothing: the image is broken"));
        } else if !hidden.starts_with(PREFIX) {
            self.hide(directory, hidden);
        }
        Ok(Whiteout::Applied)
    }

    /// Puts an entry at `path`, over whatever is there.
    pub(crate) fn insert(&mut self, path: &[u8], meta: Meta, kind: NodeKind) -> Result<(), LayerError> {
        let components = components(path, &self.limits)?;
        let is_directory = matches!(kind, NodeKind::Directory(_));
        let Some((name, parents)) = components.split_last() else {
            if !is_directory {
                return Err(LayerError::entry(path, "the root must be a directory: the image is broken"));
            }
            return self.set_meta(ROOT, meta);
        };
        let Some(parent) = self.walk(path, parents, Missing::Create)? else { return Ok(()) };
        let there = self.children(parent).and_then(|children| children.get(name)).map(|link| link.node);
        if let Some(node) = there.filter(|node| is_directory && self.children(*node).is_some()) {
            let layer = self.layer;
            if let Some(link) = self.children_mut(parent).and_then(|children| children.get_mut(name)) {
                link.layer = layer;
            }
            return self.set_meta(node, meta);
        }
        let node = self.add_node(Node { meta, kind, names: 0 })?;
        self.link(parent, name, node)
    }

    /// Gives the file at `target` a further name.
    pub(crate) fn insert_hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), LayerError> {
        let from = link_components(target, &self.limits)?;
        let missing = || {
            let target = target.get(..target.len().min(200)).unwrap_or_default();
            let target = String::from_utf8_lossy(target).into_owned();
            let why = format!("hard link to {target:?}, which is no file in this layer or below it");
            LayerError::entry(path, why)
        };
        let (last, parents) = from.split_last().ok_or_else(missing)?;
        let directory = self.walk(path, parents, Missing::Stop)?.ok_or_else(missing)?;
        let node = self.children(directory).and_then(|children| children.get(last)).map(|link| link.node);
        let node = node.filter(|node| self.children(*node).is_none()).ok_or_else(missing)?;
        let components = components(path, &self.limits)?;
        let (name, parents) = components.split_last().ok_or_else(missing)?;
        let Some(parent) = self.walk(path, parents, Missing::Create)? else { return Ok(()) };
        self.link(parent, name, node)
    }

    fn set_meta(&mut self, id: NodeId, meta: Meta) -> Result<(), LayerError> {
        let attributes: usize = meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        self.charge(attributes)?;
        if let Some(node) = self.nodes.get_mut(id) {
            node.meta = meta;
        }
        Ok(())
    }

    fn link(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<(), LayerError> {
        self.charge(name.len() + 64)?;
        if let Some(target) = self.nodes.get_mut(node) {
            target.names = target.names.saturating_add(1);
        }
        let link = Link { node, layer: self.layer };
        let replaced = self.children_mut(parent).and_then(|children| children.insert(name.into(), link));
        if let Some(replaced) = replaced {
            self.release(replaced.node);
        }
        Ok(())
    }

    /// Removes a name as far as lower layers brought it.
    fn hide(&mut self, directory: NodeId, name: &[u8]) {
        let layer = self.layer;
        let Some(link) = self.children(directory).and_then(|children| children.get(name)).copied() else {
            return;
        };
        if link.layer < layer {
            if let Some(children) = self.children_mut(directory) {
                children.remove(name);
            }
            self.release(link.node);
        } else {
            self.hide_below(link.node);
        }
    }

    /// Removes everything under a directory that lower layers brought. A directory that this layer has a file in
    /// carries this layer's mark itself, so that one pass from the top is enough.
    fn hide_below(&mut self, directory: NodeId) {
        let layer = self.layer;
        let mut todo = vec![directory];
        while let Some(id) = todo.pop() {
            let Some(children) = self.children_mut(id) else { continue };
            let mut dropped = Vec::new();
            children.retain(|_, link| {
                if link.layer < layer {
                    dropped.push(link.node);
                } else {
                    todo.push(link.node);
                }
                link.layer >= layer
            });
            for node in dropped {
                self.release(node);
            }
        }
    }

    /// Takes one name from a node, and all that goes with its last one.
    fn release(&mut self, id: NodeId) {
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            node.names = node.names.saturating_sub(1);
            if node.names > 0 {
                continue;
            }
            node.meta = Meta::default();
            match std::mem::replace(&mut node.kind, NodeKind::Gone) {
                NodeKind::Directory(children) => todo.extend(children.values().map(|link| link.node)),
                NodeKind::File(data) => self.freed.push(data),
                _ => {}
            }
        }
    }
}
