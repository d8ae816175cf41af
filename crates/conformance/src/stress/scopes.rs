//! The memory scopes of a program, and what their numbers may be.

use motet::MemoryScope;

use super::program::Program;

/// The scopes of a program, each with the most bytes that it may ever have in use.
pub(super) struct Scopes {
    scopes: Vec<(MemoryScope, usize)>,
    value_bytes: usize,
}

impl Scopes {
    /// Makes the scopes of a program.
    pub(super) fn new(program: &Program) -> Scopes {
        let [rows, columns] = program.shape;
        let mut made = Scopes {
            scopes: Vec::new(),
            value_bytes: rows * columns * size_of::<i32>(),
        };
        for (number, scope) in program.scopes.iter().enumerate() {
            let name = format!("scope {number}");
            let handle = match scope.parent {
                Some(parent) => made.get(parent).child(name),
                None => MemoryScope::new(name),
            };
            let most = made.bytes(program.room(number));
            made.scopes.push((handle, most));
            made.set_limit(number, scope.limit);
        }
        made
    }

    pub(super) fn get(&self, number: usize) -> &MemoryScope {
        &self.scopes[number].0
    }

    /// Room for so many values, or for any number.
    pub(super) fn set_limit(&self, number: usize, values: Option<usize>) {
        self.get(number).set_limit(self.bytes(values));
    }

    /// The bytes of so many values, or of any number.
    pub(super) fn bytes(&self, values: Option<usize>) -> usize {
        values.map_or(usize::MAX, |values| values * self.value_bytes)
    }

    /// Looks whether no more was in use than could be.
    ///
    /// # Errors
    /// What cannot be.
    pub(super) fn check(&self) -> Result<(), String> {
        for (scope, most) in &self.scopes {
            // In this order: what is in use now was counted before.
            let (active, peak) = (scope.active(), scope.peak());
            if active > *most || peak > *most {
                return Err(format!(
                    "{scope:?} has {active} bytes in use, and had {peak}, of at most {most}"
                ));
            }
        }
        Ok(())
    }

    /// What the scopes still have, in use and in the cache, which is emptied first.
    pub(super) fn left(&self) -> usize {
        let left = |(scope, _): &(MemoryScope, usize)| {
            scope.clear_cache();
            scope.active() + scope.cached()
        };
        self.scopes.iter().map(left).sum()
    }
}
