use super::*;
use crate::proxy::table::Table;

#[test]
fn those_who_share_a_key_are_served_in_the_order_in_which_they_came() {
    let (mut group, mut clients) = (Group::new(), Table::new());
    group.reset(ReadVerb::Get);
    for (member, key) in [b"a", b"b", b"a", b"b", b"a", b"a"].into_iter().enumerate() {
        let member = u32::try_from(member).unwrap();
        group.join(ClientId(clients.insert(())), member, Stage::Plain);
        assert_eq!(group.add(key, u64::from(key[0]), 0), member < 2);
    }
    let askers = |group: &Group, key| group.askers(key).map(|asker| asker.member).collect::<Vec<_>>();
    assert_eq!((askers(&group, 0), askers(&group, 1)), (vec![0, 2, 4, 5], vec![1, 3]));
    group.deny(0, 4);
    group.deny(0, 0);
    assert_eq!(askers(&group, 0), [NOBODY as usize, 2, NOBODY as usize, 5]);
    group.forget_askers(0);
    assert_eq!((askers(&group, 0), askers(&group, 1)), (vec![NOBODY as usize], vec![1, 3]));
}

#[test]
fn groups_that_are_kept_hold_little_however_large_they_were() {
    let mut pool = GroupPool::default();
    for keys in [1, 4_000] {
        let mut groups: Vec<Box<Group>> = (0..2 * KEEP_GROUPS).map(|_| pool.take(ReadVerb::Get)).collect();
        for group in &mut groups {
            for place in 0..keys {
                group.join(ClientId::NONE, place, Stage::Plain);
                group.add(b"k", 1, place);
            }
            group.close();
        }
        groups.into_iter().for_each(|group| pool.put(group));
        assert_eq!(pool.held, pool.groups.iter().map(|group| group.held()).sum::<usize>());
        assert!(pool.held <= KEEP_BYTES, "{} KiB", pool.held >> 10);
        assert!(!pool.groups.is_empty() && pool.groups.len() <= KEEP_GROUPS);
    }
    while !pool.groups.is_empty() {
        pool.take(ReadVerb::Gat(1));
    }
    assert_eq!(pool.held, 0);
}
