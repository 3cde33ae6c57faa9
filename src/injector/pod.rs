//! Reading a pod: a JSON value of any Kubernetes version in which anything may be missing or of another type.

use std::collections::BTreeMap;

use serde_json::Value;

const NOTHING: &Value = &Value::Null;

/// A pod as it is to be created.
pub(super) struct Pod<'a> {
    /// The whole object.
    pub(super) object: &'a Value,
    /// Of the request: a pod made by a controller often has none itself.
    namespace: Option<&'a str>,
}

/// A container with its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Container<'a> {
    /// Its JSON Pointer.
    list: &'static str,
    /// Its index in its list.
    pub(super) index: usize,
    value: &'a Value,
}

/// The controller that made a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner<'a> {
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
}

impl<'a> Pod<'a> {
    /// `object` must be a JSON object to be of use.
    pub(super) fn new(object: &'a Value, namespace: Option<&'a str>) -> Self {
        Self { object, namespace }
    }

    /// What stands at a JSON Pointer; null when nothing does.
    pub(super) fn at(&self, pointer: &str) -> &'a Value {
        self.object.pointer(pointer).unwrap_or(NOTHING)
    }

    pub(super) fn text(&self, pointer: &str) -> Option<&'a str> {
        self.at(pointer).as_str().filter(|text| !text.is_empty())
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&'a str> {
        self.at("/metadata/annotations").get(name)?.as_str()
    }

    pub(super) fn label(&self, name: &str) -> Option<&'a str> {
        self.at("/metadata/labels").get(name)?.as_str()
    }

    /// Every annotation that is text.
    pub(super) fn annotations(&self) -> BTreeMap<&'a str, &'a str> {
        let members = self.at("/metadata/annotations").as_object();
        members
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
            .collect()
    }

    pub(super) fn namespace(&self) -> Option<&'a str> {
        self.namespace.or_else(|| self.text("/metadata/namespace"))
    }

    /// `namespace/name`, or what its name will begin with.
    pub(super) fn display_name(&self) -> String {
        let name = self.text("/metadata/name").map(str::to_owned);
        let generated = || {
            let prefix = self.text("/metadata/generateName")?;
            Some(format!("{prefix}*"))
        };
        let name = name.or_else(generated).unwrap_or_else(|| "unnamed".into());
        match self.namespace() {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name,
        }
    }

    /// The name of a pod that nobody generates another one for.
    pub(super) fn own_name(&self) -> Option<&'a str> {
        let prefix = self.text("/metadata/generateName");
        self.text("/metadata/name")
            .or_else(|| prefix.map(|prefix| prefix.trim_end_matches('-')))
    }

    /// Who controls the pod.
    pub(super) fn owner(&self) -> Option<Owner<'a>> {
        let owners = self.at("/metadata/ownerReferences").as_array()?;
        let controls = |owner: &&Value| owner["controller"].as_bool() == Some(true);
        let owner = owners.iter().find(controls).or_else(|| owners.first())?;
        Some(Owner {
            kind: owner["kind"].as_str()?,
            name: owner["name"].as_str()?,
        })
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = Container<'a>> + use<'a> {
        self.list("/spec/containers")
    }

    pub(super) fn init_containers(&self) -> impl Iterator<Item = Container<'a>> + use<'a> {
        self.list("/spec/initContainers")
    }

    /// Containers that run beside each other: those of the pod, and init containers that stay.
    pub(super) fn lasting_containers(&self) -> impl Iterator<Item = Container<'a>> + use<'a> {
        let sidecars = self.init_containers();
        sidecars
            .filter(|container| container.text("/restartPolicy") == Some("Always"))
            .chain(self.containers())
    }

    fn list(&self, pointer: &'static str) -> impl Iterator<Item = Container<'a>> + use<'a> {
        let items = self.at(pointer).as_array().into_iter().flatten();
        items.enumerate().map(move |(index, value)| Container {
            list: pointer,
            index,
            value,
        })
    }
}

impl<'a> Container<'a> {
    pub(super) fn name(&self) -> &'a str {
        self.text("/name").unwrap_or_default()
    }

    /// Its JSON Pointer in the pod.
    pub(super) fn pointer(&self) -> String {
        format!("{}/{}", self.list, self.index)
    }

    pub(super) fn at(&self, pointer: &str) -> &'a Value {
        self.value.pointer(pointer).unwrap_or(NOTHING)
    }

    pub(super) fn text(&self, pointer: &str) -> Option<&'a str> {
        self.at(pointer).as_str()
    }

    /// Every port it names, with its name.
    pub(super) fn ports(&self) -> impl Iterator<Item = (u16, &'a Value)> + use<'a> {
        let ports = self.at("/ports").as_array().into_iter().flatten();
        ports.filter_map(|port| {
            let number = port["containerPort"].as_u64()?;
            Some((u16::try_from(number).ok()?, port))
        })
    }

    /// Its ports that take TCP.
    pub(super) fn tcp_ports(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.ports()
            .filter(|(_, port)| port["protocol"].as_str().is_none_or(|name| name == "TCP"))
            .map(|(number, _)| number)
    }

    /// The position of a variable.
    pub(super) fn variable(&self, name: &str) -> Option<(usize, &'a Value)> {
        let variables = self.at("/env").as_array()?.iter().enumerate();
        // The last of equal names is the one in force.
        variables
            .rev()
            .find(|(_, variable)| variable["name"] == name)
    }
}
