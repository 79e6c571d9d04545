//! The merged file tree of an image, in memory (OCI image specification, "Applying Changesets").
//!
//! Owned by the thread that flattens. Entries of layer after layer go in; whiteouts, opaque markers, replaced entries
//! and hard links are settled at once, in [`resolve`] paths are walked. Invariants: every path stays inside the tree,
//! whatever symbolic links say; a whiteout only hides what layers below its own brought; a node without a name left
//! gives its data back.

mod merge;
mod resolve;

use std::collections::BTreeMap;

use crate::erofs::FileData;
use crate::layer::LayerError;
use crate::layer::records::Meta;
use crate::limits::Limits;

pub(crate) use merge::Whiteout;

/// A node's place in the tree's arena.
pub(crate) type NodeId = usize;

/// The root directory's place.
pub(crate) const ROOT: NodeId = 0;

/// What a node is.
#[derive(Debug)]
pub(crate) enum NodeKind {
    Directory(BTreeMap<Box<[u8]>, Link>),
    File(FileData),
    Symlink(Box<[u8]>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    /// Without a name any more.
    Gone,
}

/// One name in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) node: NodeId,
    /// The topmost layer that had this name.
    layer: usize,
}

/// A file of any kind.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) kind: NodeKind,
    /// Names that lead here.
    pub(crate) names: u32,
}

/// The tree.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    layer: usize,
    metadata_bytes: u64,
    limits: Limits,
    /// Data whose last name went away.
    freed: Vec<FileData>,
}

impl Tree {
    /// A tree with nothing but its root.
    pub(crate) fn new(limits: &Limits) -> Self {
        let root = Node { meta: missing_directory(), kind: NodeKind::Directory(BTreeMap::new()), names: 1 };
        Self { nodes: vec![root], layer: 0, metadata_bytes: 0, limits: limits.clone(), freed: Vec::new() }
    }

    /// Says that the entries to come are those of the next layer up.
    pub(crate) fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// The node at a place; of a place that is not there, the root.
    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// How many places there are, used or not.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Data that no file holds any more, once.
    pub(crate) fn take_freed(&mut self) -> Vec<FileData> {
        std::mem::take(&mut self.freed)
    }

    fn children(&self, id: NodeId) -> Option<&BTreeMap<Box<[u8]>, Link>> {
        match self.nodes.get(id).map(|node| &node.kind) {
            Some(NodeKind::Directory(children)) => Some(children),
            _ => None,
        }
    }

    fn children_mut(&mut self, id: NodeId) -> Option<&mut BTreeMap<Box<[u8]>, Link>> {
        match self.nodes.get_mut(id).map(|node| &mut node.kind) {
            Some(NodeKind::Directory(children)) => Some(children),
            _ => None,
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), LayerError> {
        self.metadata_bytes = self.metadata_bytes.saturating_add(bytes as u64);
        if self.metadata_bytes > self.limits.max_metadata_bytes {
            return Err(LayerError::Limit {
                what: "bytes of names, links and attributes",
                limit: self.limits.max_metadata_bytes,
                name: "max_metadata_bytes",
            });
        }
        Ok(())
    }

    fn add_node(&mut self, node: Node) -> Result<NodeId, LayerError> {
        if self.nodes.len() as u64 >= self.limits.max_entries {
            return Err(LayerError::Limit {
                what: "entries",
                limit: self.limits.max_entries,
                name: "max_entries",
            });
        }
        let attributes: usize =
            node.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        let content = match &node.kind {
            NodeKind::Symlink(target) => target.len(),
            NodeKind::File(data) => data.memory(),
            _ => 0,
        };
        self.charge(attributes + content)?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }
}

/// What a directory gets that only its children were mentioned of.
fn missing_directory() -> Meta {
    Meta { mode: 0o755, ..Meta::default() }
}
