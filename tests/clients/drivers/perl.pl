#!/usr/bin/perl
# The Perl clients. What a driver is told and answers: `matrix.py`.
use strict;
use warnings;
use MIME::Base64 qw(encode_base64 decode_base64);

my $TIMEOUT_SECONDS = 30;
my ($name, $host, $port) = @ARGV;
my %uniques;

sub yes { return \($_[0] ? 'true' : 'false') }

# Undefined where the server did not answer, which is no `no`.
sub yes_or_no {
    my ($answer) = @_;
    die "no answer\n" unless defined $answer;
    return yes($answer);
}

sub cache_memcached {
    require Cache::Memcached;
    my $library = Cache::Memcached->new({
        servers => ["$host:$port"],
        connect_timeout => $TIMEOUT_SECONDS,
        select_timeout => $TIMEOUT_SECONDS,
    });
    my %client = map {
        my $op = $_;
        $op => sub { yes($library->$op(@_)) }
    } qw(set add replace delete);
    $client{append} = sub { yes($library->append(@_)) };
    $client{prepend} = sub { yes($library->prepend(@_)) };
    $client{get} = sub {
        # It sends any key, and waits for an end even if the server refuses it.
        local $library->{select_timeout} = length $_[0] > 250 ? 1 : $TIMEOUT_SECONDS;
        $library->get(@_);
    };
    for my $op (qw(incr decr)) {
        $client{$op} = sub { my $count = $library->$op(@_); defined $count ? \("number\t" . ($count + 0)) : undef };
    }
    $client{multiget} = sub { $library->get_multi(@_) };
    $client{stats} = sub { $library->stats('misc')->{hosts}{"$host:$port"}{misc} };
    $client{flush} = sub { yes($library->flush_all) };
    return \%client;
}

sub cache_memcached_fast {
    require Cache::Memcached::Fast;
    my $library = Cache::Memcached::Fast->new({
        servers => ["$host:$port"],
        connect_timeout => $TIMEOUT_SECONDS,
        io_timeout => $TIMEOUT_SECONDS,
        max_size => 2 << 20,
    });
    my %client = map {
        my $op = $_;
        $op => sub { yes_or_no($library->$op(@_)) }
    } qw(set add replace append prepend touch delete);
    $client{get} = sub { $library->get(@_) };
    $client{gets} = sub {
        my ($key) = @_;
        my $found = $library->gets($key);
        ($uniques{$key}, my $value) = @$found;
        return $value;
    };
    $client{cas} = sub { my ($key, @rest) = @_; yes_or_no($library->cas($key, $uniques{$key}, @rest)) };
    for my $op (qw(incr decr)) {
        $client{$op} = sub {
            my $count = $library->$op(@_);
            die "no answer\n" unless defined $count;
            # Not a number: nothing was there. Zero is true here.
            return $count eq '' ? undef : \("number\t" . ($count + 0));
        };
    }
    $client{gat} = sub { my ($key, $seconds) = @_; $library->gat($seconds, $key) };
    $client{multiget} = sub { $library->get_multi(@_) };
    $client{multiset} = sub {
        my @sets;
        while (my ($key, $value) = splice @_, 0, 2) {
            push @sets, [$key, $value, 1000];
        }
        return yes(!grep { !$_ } $library->set_multi(@sets));
    };
    # In void context nothing is answered.
    $client{quiet_set} = sub { $library->set(@_); return };
    $client{quiet_delete} = sub { $library->delete(@_); return };
    $client{version} = sub { (values %{$library->server_versions})[0] };
    $client{flush} = sub { yes((values %{$library->flush_all})[0]) };
    return \%client;
}

my $client = $name eq 'Cache::Memcached' ? cache_memcached() : cache_memcached_fast();

# Keys and values are bytes, the rest numbers.
sub arguments {
    my ($op, @fields) = @_;
    return map { decode_base64($_) } @fields if $op =~ /^(?:gets?|delete|multiget|multiset|quiet_delete)$/;
    my $numbers = $op =~ /^(?:incr|decr|touch|gat)$/ ? 1 : 2;
    return map { $_ < $numbers ? decode_base64($fields[$_]) : $fields[$_] } 0 .. $#fields;
}

sub answer {
    my ($found) = @_;
    return 'none' unless defined $found;
    return $$found if ref $found eq 'SCALAR' || ref $found eq 'REF';
    return join "\t", 'pairs', map { encode_base64($_, '') } %$found if ref $found eq 'HASH';
    return "value\t" . encode_base64($found, '');
}

$| = 1;
while (my $line = <STDIN>) {
    chomp $line;
    my ($op, @fields) = split /\t/, $line, -1;
    my $said = 'unsupported';
    if (my $call = $client->{$op}) {
        $said = eval {
            if ($op =~ /^quiet_/) {
                $call->(arguments($op, @fields));
                'done';
            } else {
                answer(scalar $call->(arguments($op, @fields)));
            }
        };
        unless (defined $said) {
            $said = "error\t$@" =~ s/\n/ /gr;
            print STDERR "$said\n";
        }
    }
    print "$said\n";
}
