# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_dot_proxy_global_optspecs
    string join \n config= listen= upstream= h/help V/version
end

function __fish_dot_proxy_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_dot_proxy_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_dot_proxy_using_subcommand
    set -l cmd (__fish_dot_proxy_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -s V -l version -d 'Print version'
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -f -a "run" -d 'Serves until SIGTERM or SIGINT; the default.'
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -f -a "check" -d 'Says whether the configuration would do and what will be verified of each server.'
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -f -a "status" -d 'Shows how the running service fares: listeners, privileges, workers, resolvers. Exit status 0: it serves; 1: degraded; 3: it does not run.'
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -f -a "reload" -d 'Has the running service read its configuration again, waits, and tells what came of it. Exit status 0: applied; 1: refused, and nothing was changed; 3: it does not run.'
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -f -a "flush" -d 'Has the running service forget the answers in its memory: all of them, or those for one name. Exit status 0: done; 3: it does not run.'
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -f -a "pins" -d 'Shows the certificates that a server presents, the pins of their keys and who vouches for them; no query is sent. Exit status 0: shown; 1: no TLS connection came about; 78: the server or the file cannot be used.'
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -f -a "query" -d 'Asks one question as the service would, and shows the answer, the server, TLS, the certificates that were presented, what was verified and how long each stage took. Exit status 0: the answer is NOERROR or NXDOMAIN; 1: another one, or none; 78: name, type, server or configuration cannot be used.'
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -f -a "system-dns" -d 'Points the machine\'s lookups at this service, reversibly; see SYSTEM DNS in dot-proxy(8).'
complete -c dot-proxy -n "__fish_dot_proxy_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand run" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand run" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand run" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand run" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand check" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand check" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand check" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand check" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand status" -l socket -d 'Asks at this control socket instead of the one that the configuration names.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand status" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand status" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand status" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand status" -l json -d 'Shows it as JSON.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand status" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand reload" -l socket -d 'Asks at this control socket instead of the one that the configuration names.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand reload" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand reload" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand reload" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand reload" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand flush" -l socket -d 'Asks at this control socket instead of the one that the configuration names.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand flush" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand flush" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand flush" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand flush" -l below -d 'And those for all names below it.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand flush" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand pins" -l ca-file -d 'Asks the CA certificates of this PEM file who the server is, instead of the system\'s trust store.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand pins" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand pins" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand pins" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand pins" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand query" -l server -d 'Asks this server, written as for --upstream, whatever routes the configuration has.' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand query" -l ca-file -d 'Asks the CA certificates of this PEM file who the server is, instead of those of the configuration.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand query" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand query" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand query" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand query" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and not __fish_seen_subcommand_from enable disable status help" -l root -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and not __fish_seen_subcommand_from enable disable status help" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and not __fish_seen_subcommand_from enable disable status help" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and not __fish_seen_subcommand_from enable disable status help" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and not __fish_seen_subcommand_from enable disable status help" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and not __fish_seen_subcommand_from enable disable status help" -f -a "enable" -d 'Points the machine\'s lookups at this service, if it answers.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and not __fish_seen_subcommand_from enable disable status help" -f -a "disable" -d 'Puts back what was there before.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and not __fish_seen_subcommand_from enable disable status help" -f -a "status" -d 'Says what manages DNS here and whether lookups go to this service.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and not __fish_seen_subcommand_from enable disable status help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from enable" -l root -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from enable" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from enable" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from enable" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from enable" -l force -d 'Also if the service does not answer, or answers with a failure.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from enable" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from disable" -l root -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from disable" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from disable" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from disable" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from disable" -l force -d 'Also over what somebody has changed since.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from disable" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from status" -l root -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from status" -l config -d 'Reads this configuration file instead of /etc/dot-proxy/dot-proxy.toml, which may be missing.' -r -F
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from status" -l listen -d 'Addresses served over UDP and TCP. May be given more than once, or with commas. Replaces listen.addresses. [default: 127.0.0.1:53, [::1]:53]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from status" -l upstream -d 'The resolvers, in order of preference, as address[:port][#name] or as a name. May be given more than once, or with commas. Replaces upstream.servers. [default: 1.1.1.1#cloudflare-dns.com, 1.0.0.1#cloudflare-dns.com, [2606:4700:4700::1111]#cloudflare-dns.com, [2606:4700:4700::1001]#cloudflare-dns.com]' -r
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from help" -f -a "enable" -d 'Points the machine\'s lookups at this service, if it answers.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from help" -f -a "disable" -d 'Puts back what was there before.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from help" -f -a "status" -d 'Says what manages DNS here and whether lookups go to this service.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand system-dns; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and not __fish_seen_subcommand_from run check status reload flush pins query system-dns help" -f -a "run" -d 'Serves until SIGTERM or SIGINT; the default.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and not __fish_seen_subcommand_from run check status reload flush pins query system-dns help" -f -a "check" -d 'Says whether the configuration would do and what will be verified of each server.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and not __fish_seen_subcommand_from run check status reload flush pins query system-dns help" -f -a "status" -d 'Shows how the running service fares: listeners, privileges, workers, resolvers. Exit status 0: it serves; 1: degraded; 3: it does not run.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and not __fish_seen_subcommand_from run check status reload flush pins query system-dns help" -f -a "reload" -d 'Has the running service read its configuration again, waits, and tells what came of it. Exit status 0: applied; 1: refused, and nothing was changed; 3: it does not run.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and not __fish_seen_subcommand_from run check status reload flush pins query system-dns help" -f -a "flush" -d 'Has the running service forget the answers in its memory: all of them, or those for one name. Exit status 0: done; 3: it does not run.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and not __fish_seen_subcommand_from run check status reload flush pins query system-dns help" -f -a "pins" -d 'Shows the certificates that a server presents, the pins of their keys and who vouches for them; no query is sent. Exit status 0: shown; 1: no TLS connection came about; 78: the server or the file cannot be used.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and not __fish_seen_subcommand_from run check status reload flush pins query system-dns help" -f -a "query" -d 'Asks one question as the service would, and shows the answer, the server, TLS, the certificates that were presented, what was verified and how long each stage took. Exit status 0: the answer is NOERROR or NXDOMAIN; 1: another one, or none; 78: name, type, server or configuration cannot be used.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and not __fish_seen_subcommand_from run check status reload flush pins query system-dns help" -f -a "system-dns" -d 'Points the machine\'s lookups at this service, reversibly; see SYSTEM DNS in dot-proxy(8).'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and not __fish_seen_subcommand_from run check status reload flush pins query system-dns help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and __fish_seen_subcommand_from system-dns" -f -a "enable" -d 'Points the machine\'s lookups at this service, if it answers.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and __fish_seen_subcommand_from system-dns" -f -a "disable" -d 'Puts back what was there before.'
complete -c dot-proxy -n "__fish_dot_proxy_using_subcommand help; and __fish_seen_subcommand_from system-dns" -f -a "status" -d 'Says what manages DNS here and whether lookups go to this service.'
