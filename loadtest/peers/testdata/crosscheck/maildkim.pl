# Verifies the messages *.eml of a folder with Mail::DKIM and prints one line of JSON for each.
#
# Key records come from dns.json in that folder, an object of texts by name. A line has the message's file, what became
# of each DKIM-Signature from the top, and of the ARC chain.
use strict;
use warnings;
use JSON::PP;
use Mail::DKIM::ARC::Verifier;
use Mail::DKIM::DNS;
use Mail::DKIM::Verifier;
use Net::DNS;

# A Zone is what Mail::DKIM::DNS asks of a resolver.
package Zone;

sub send {
    my ($self, $name, $type) = @_;
    my $packet = Net::DNS::Packet->new($name, $type);
    $name =~ s/\.$//;
    my $text = $self->{zone}{lc $name};
    $packet->header->rcode(defined $text ? 'NOERROR' : 'NXDOMAIN');
    $packet->push(answer => Net::DNS::RR->new(owner => $name, type => 'TXT', txtdata => [unpack '(a255)*', $text]))
        if defined $text && $type eq 'TXT';
    return $packet;
}

sub errorstring { 'NOERROR' }

package main;

my $folder = shift;
my $json   = JSON::PP->new->latin1->canonical;

sub slurp {
    open my $f, '<:raw', $_[0] or die "$_[0]: $!";
    local $/;
    return scalar <$f>;
}

Mail::DKIM::DNS::resolver(bless { zone => $json->decode(slurp("$folder/dns.json")) }, 'Zone');

for my $path (sort glob "$folder/*.eml") {
    my $octets = slurp($path);
    my %line = (file => $path =~ s{.*/}{}r, dkim => [], arc => '', arc_why => '');
    # Where Mail::DKIM dies, that is its answer.
    eval {
        my $v = Mail::DKIM::Verifier->new;
        $v->PRINT($octets);
        $v->CLOSE;
        for my $s ($v->signatures) {
            my $b = $s->data // '';
            $b =~ s/\s+//g;
            push @{$line{dkim}},
                {d => $s->domain // '', s => $s->selector // '', b => $b, result => $s->result // '', why => $s->result_detail // ''};
        }
        1;
    } or $line{dkim_why} = "$@";
    eval {
        my $v = Mail::DKIM::ARC::Verifier->new;
        $v->PRINT($octets);
        $v->CLOSE;
        @line{qw(arc arc_why)} = ($v->result // '', $v->result_detail // '');
        1;
    } or @line{qw(arc arc_why)} = ('fail', "$@");
    print $json->encode(\%line), "\n";
}
