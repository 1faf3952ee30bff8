//! Which layers are in force.

use std::fmt;

use crate::error::Layer;

/// What holds a program, layer by layer: see [`Child::report`](crate::Child::report).
///
/// What a policy asks for by name is enforced, or the start fails. What it has by default is applied where the kernel has
/// it, and this tells how far that goes. Printed, it is a table, one layer a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report(Vec<LayerStatus>);

/// How far a layer is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerStatus {
    layer: Layer,
    enforcement: Enforcement,
    why: Option<String>,
    how: Option<String>,
}

/// How far a layer is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Enforcement {
    /// Whole.
    InForce,
    /// In part: [`LayerStatus::why`] tells what is missing.
    Partly,
    /// Not at all: [`LayerStatus::why`] tells the reason.
    Off,
}

impl Report {
    /// The layers, from the outermost to the innermost.
    pub fn layers(&self) -> impl Iterator<Item = &LayerStatus> {
        self.0.iter()
    }

    /// One layer. None for those that are no protection of their own, such as the execution of the program.
    pub fn layer(&self, layer: Layer) -> Option<&LayerStatus> {
        self.0.iter().find(|status| status.layer == layer)
    }

    pub(crate) fn add(&mut self, layer: Layer, off: bool, why: Option<String>) {
        let enforcement = match (off, &why) {
            (true, _) => Enforcement::Off,
            (false, Some(_)) => Enforcement::Partly,
            (false, None) => Enforcement::InForce,
        };
        self.0.push(LayerStatus { layer, enforcement, why, how: None });
    }

    /// Adds by what a layer is held.
    pub(crate) fn tell(&mut self, layer: Layer, how: Option<String>) {
        self.0.iter_mut().filter(|status| status.layer == layer).for_each(|status| status.how.clone_from(&how));
    }

    /// Adds what the start went on without.
    pub(crate) fn lack(&mut self, layer: Layer, why: &str) {
        for status in self.0.iter_mut().filter(|status| status.layer == layer) {
            status.enforcement = Enforcement::Partly;
            status.why = Some(match &status.why {
                Some(other) => format!("{other}; {why}"),
                None => why.to_owned(),
            });
        }
    }
}

impl LayerStatus {
    /// Which layer this is.
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// How far it is in force.
    pub fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    /// What is missing, and why.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// By what it is held, where there is more than one way: each limit by the cgroup, or for each process by itself.
    pub fn how(&self) -> Option<&str> {
        self.how.as_deref()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for LayerStatus { layer, enforcement, why, how } in &self.0 {
            let state = match enforcement {
                Enforcement::InForce => "in force",
                Enforcement::Partly => "partly",
                Enforcement::Off => "off",
            };
            match why.as_ref().or(how.as_ref()) {
                Some(why) => writeln!(f, "{layer:<12}  {state:<8}  {why}")?,
                None => writeln!(f, "{layer:<12}  {state}")?,
            }
        }
        Ok(())
    }
}
