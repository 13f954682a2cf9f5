//! What must hold in the small world. Landings and the end are judged by the history of commits alone: what the queue
//! thinks of its rows is not asked.

use super::*;

impl World {
    /// Theirs stays theirs, and only what they stand in the way of is parked.
    pub(super) fn judge_foreign(&self) -> Result<(), String> {
        for name in &self.foreign {
            let held = self.origin.body(&key_of(name));
            if held.as_deref() != Some(b"foreign") {
                return Err(format!("{name:?}: the foreign object became {held:?}"));
            }
        }
        let parked = self.queue.list(true, 100);
        let wins = |row: &&RowView| {
            let name = (row.bucket, row.key.clone());
            let blind = self.rows.row(&name, row.version).is_some_and(|row| row.blind);
            blind && self.rows.origin(&name).is_none()
        };
        if let Some(row) = parked.iter().find(wins) {
            return Err(format!("a blind row was set aside: {row:?}"));
        }
        match parked.iter().find(|row| !self.foreign.contains(&(row.bucket, row.key.clone()))) {
            Some(row) => Err(format!("nothing foreign explains {row:?}")),
            None => Ok(()),
        }
    }

    pub(super) fn judge_end(&self) -> Result<(), String> {
        if self.rows.transfers_len() > 0 && !self.plan.sabotage.no_abort {
            return Err(format!("{} uploads are left", self.rows.transfers_len()));
        }
        for name in self.history.iter().map(|commit| &commit.name).collect::<BTreeSet<_>>() {
            let held = self.origin.body(&key_of(name));
            let newest = self.history.iter().rfind(|commit| commit.name == *name);
            let wanted =
                newest.filter(|commit| commit.kind == FlushKind::Put).map(|commit| body(commit.version));
            if held != wanted {
                return Err(format!("{name:?}: the origin holds {held:?} instead of {wanted:?}"));
            }
        }
        Ok(())
    }

    /// The rules, by history alone.
    pub(super) fn judge_landing(&mut self, request: &Request) -> Result<(), String> {
        let (name, version) = (&request.name, request.version);
        let what = format!("{:?} {version:?} of {name:?} landed at {}", request.kind, self.now);
        if self.foreign.contains(name) {
            match request.kind {
                FlushKind::Put if request.blind => self.foreign.remove(name),
                FlushKind::Put => return Err(format!("{what}: over a foreign object")),
                // Nothing was there when it was asked, so the delete had nothing to name: the one gap
                // that is left.
                FlushKind::Delete => self.foreign.remove(name),
            };
        }
        if let Some(last) = self.landed.get(name)
            && version < *last
        {
            return Err(format!("{what}: the origin went back from {last:?}"));
        }
        self.landed.insert(name.clone(), version);
        let in_bucket = || self.history.iter().filter(|commit| commit.name.0 == name.0);
        let pending = in_bucket().find(|c| c.barrier && !self.landed_barriers.contains(&c.version));
        let Some(barrier) = pending.map(|commit| commit.version) else { return Ok(()) };
        if version > barrier {
            let then = in_bucket().rfind(|c| c.name == *name && c.version <= barrier);
            let was_absent = then.is_none_or(|commit| commit.kind == FlushKind::Delete);
            if request.kind == FlushKind::Delete || !was_absent {
                return Err(format!("{what}: overtook barrier {barrier:?}"));
            }
        }
        if in_bucket().any(|c| c.barrier && c.version == version) {
            for older in in_bucket().filter(|c| c.version < version) {
                if self.landed.get(&older.name).is_none_or(|landed| *landed < older.version) {
                    let (key, older) = (&older.name, older.version);
                    return Err(format!("{what}: as a barrier before {older:?} of {key:?}"));
                }
            }
            self.landed_barriers.insert(version);
        }
        Ok(())
    }
}
