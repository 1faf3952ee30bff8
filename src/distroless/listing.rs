//! What is in a root, by its path inside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::tree::{Found, Kind};

/// The most files, links and directories of a root, what is below a whole directory aside.
pub(super) const NODES_MAX: usize = 8192;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// An empty directory of this mode, whose owner is this id.
    Dir { mode: u32, owner: u32 },
    /// The home of a user: in a sandbox, a file system in memory.
    Home { owner: u32 },
    /// The file of the tree that has this path there too.
    File,
    /// The directory of the tree that has this path there too, with all that is in it.
    Tree,
    /// A symbolic link.
    Link(PathBuf),
    /// A file from elsewhere in the tree.
    Copy(PathBuf),
    /// A file of our own.
    Text(Vec<u8>),
}

/// A root, in the order of its paths: what holds something comes before it.
#[derive(Debug, Default)]
pub(crate) struct Listing(BTreeMap<PathBuf, Node>);

impl Listing {
    /// Puts in where a path has led, with the links on the way. Tells whether it is not too much.
    pub(super) fn add(&mut self, found: &Found) -> bool {
        for (link, target) in &found.links {
            self.0.insert(link.clone(), Node::Link(target.clone()));
        }
        let node = if found.kind == Kind::Dir { Node::Tree } else { Node::File };
        self.0.insert(found.real.clone(), node);
        self.0.len() <= NODES_MAX
    }

    /// Puts something in, unless something is there.
    pub(super) fn put(&mut self, path: impl Into<PathBuf>, node: Node) {
        self.0.entry(path.into()).or_insert(node);
    }

    /// Whether a whole directory has the path already.
    pub(super) fn has_below_tree(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|dir| self.0.get(dir) == Some(&Node::Tree))
    }

    /// Leaves out what a whole directory brings along. `Err` has a path that would lie below a link, and the link.
    pub(super) fn finish(mut self) -> Result<Self, (PathBuf, PathBuf)> {
        let covered: Vec<PathBuf> = self.0.keys().filter(|path| self.has_below_tree(path)).cloned().collect();
        covered.iter().for_each(|path| drop(self.0.remove(path)));
        for path in self.0.keys() {
            let link = path.ancestors().skip(1).find(|dir| matches!(self.0.get(*dir), Some(Node::Link(_))));
            if let Some(link) = link {
                return Err((path.clone(), link.to_owned()));
            }
        }
        Ok(self)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_path(), node))
    }
}
