import net.spy.memcached.ClientMode;
import net.spy.memcached.ConnectionFactoryBuilder;

/** AWS's fork of spymemcached, told to ask for the nodes whatever the server's name. */
final class Elasticache extends Spymemcached {
    Elasticache(String host, int port, boolean binary) throws Exception {
        super(host, port, binary);
    }

    @Override
    ConnectionFactoryBuilder builder() {
        return new ConnectionFactoryBuilder().setClientMode(ClientMode.Dynamic);
    }
}
