#!/usr/bin/perl
# Cache::Memcached::Fast matches the values of a multiget to its keys by their place in the reply: a value that comes
# out of turn is handed to the application under another key, or is missing. This asks for many keys at a time and
# compares every value, which names its key.
#
#   fast.pl PORT SEED KEYS SIZE METHOD:COUNT:ROUNDS ...
#
# SEED makes the choice of keys and, where keys are written, their names differ between processes. KEYS values of SIZE
# bytes are stored first. METHOD is get_multi, gets_multi, gat_multi, gats_multi or cas_multi, of COUNT different keys
# in an order of its own each time. For each such word one line is printed: the word, and how many keys were asked for,
# wrong and missing.
use strict;
use warnings;
use Cache::Memcached::Fast;
use List::Util qw(shuffle);

my ($port, $seed, $count, $size, @loads) = @ARGV;
die "usage: fast.pl PORT SEED KEYS SIZE METHOD:COUNT:ROUNDS ...\n" unless @loads;
srand($seed);

my $client = Cache::Memcached::Fast->new({
    servers => ["127.0.0.1:$port"],
    # A client that gives up too early would be told nothing of what is wrong.
    connect_timeout => 20,
    io_timeout => 60,
});

# The value of a key in some version of it: another one for each.
sub value {
    my ($key, $version) = @_;
    my $name = "$key/$version;";
    return substr($name x (1 + $size / length $name), 0, $size);
}

my %version;

sub store {
    my @keys = @_;
    while (my @some = splice @keys, 0, 50) {
        $version{$_} //= 0 for @some;
        my @stored = $client->set_multi(map { [$_, value($_, $version{$_})] } @some);
        for my $index (0 .. $#some) {
            die "$some[$index] was not stored\n" unless $stored[$index];
        }
    }
}

my @shared = map {"shared:$_"} 1 .. $count;
# Written by this process alone.
my @own = map {"own:$seed:$_"} 1 .. $count;
store(@shared);
store(@own) if grep {/^cas_multi/} @loads;

my ($asked, $wrong, $missing);
my $first_wrong;

# One answer: a hash of values, or of [unique, value] pairs.
sub check {
    my ($found, $with_unique, @keys) = @_;
    $asked += @keys;
    my %asked = map { $_ => 1 } @keys;
    for my $key (@keys) {
        my $value = $found->{$key};
        $value = $value->[1] if $with_unique && defined $value;
        if (!defined $value) {
            $missing++;
        } elsif ($value ne value($key, $version{$key})) {
            $wrong++;
            $first_wrong //= "$key is " . substr $value, 0, 40;
        }
    }
    for my $key (keys %$found) {
        next if $asked{$key};
        $wrong++;
        $first_wrong //= "$key was not asked for";
    }
}

sub compare_and_swap {
    my @keys = @_;
    my $found = $client->gets_multi(@keys);
    check($found, 1, @keys);
    my @held = grep { $found->{$_} } @keys;
    # Every third comes with a unique that cannot be right and must be refused, so that answers in another order show.
    my (@swaps, @fits);
    for my $index (0 .. $#held) {
        my $key = $held[$index];
        my $fits = $index % 3 != 1;
        my $unique = $fits ? $found->{$key}[0] : '18446744073709551615';
        push @fits, $fits;
        push @swaps, [$key, $unique, value($key, $version{$key} + 1)];
    }
    return unless @swaps;
    my @swapped = $client->cas_multi(@swaps);
    for my $index (0 .. $#held) {
        $asked++;
        if (!defined $swapped[$index]) {
            $missing++;
        } elsif (!!$swapped[$index] != $fits[$index]) {
            $wrong++;
            $first_wrong //= "the swap of $held[$index]";
        }
        $version{$held[$index]}++ if $swapped[$index];
    }
    check(scalar $client->get_multi(@held), 0, @held);
}

for my $load (@loads) {
    my ($method, $many, $rounds) = split /:/, $load;
    ($asked, $wrong, $missing, $first_wrong) = (0, 0, 0, undef);
    for (1 .. $rounds) {
        my $from = $method eq 'cas_multi' ? \@own : \@shared;
        my @keys;
        if ($many * 2 > @$from) {
            @keys = (shuffle @$from)[0 .. $many - 1];
        } else {
            my %taken;
            while (@keys < $many) {
                my $key = $from->[rand @$from];
                push @keys, $key unless $taken{$key}++;
            }
        }
        if ($method eq 'cas_multi') {
            compare_and_swap(@keys);
            next;
        }
        my @arguments = $method =~ /^gat/ ? (1000, @keys) : @keys;
        check(scalar $client->$method(@arguments), scalar($method =~ /^(?:gets|gats)_/), @keys);
    }
    print "$load asked $asked wrong $wrong missing $missing\n";
    print STDERR "$load: $first_wrong\n" if defined $first_wrong;
}
