// An upstream of wxgate with the JDK alone.
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;

public class Upstream {
  public static void main(String[] args) throws Exception {
    int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "3000"));
    // Only the gateway on this machine reaches it.
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    server.createContext("/", exchange -> {
      String openid = exchange.getRequestHeaders().getFirst("X-OpenID");
      boolean known = openid != null && !openid.isEmpty();
      String answer = known ? "{\"openid\":" + quote(openid) + "}" : "{\"error\":\"no_openid\"}";
      byte[] body = answer.getBytes(StandardCharsets.UTF_8);
      exchange.getResponseHeaders().set("Content-Type", "application/json");
      exchange.sendResponseHeaders(known ? 200 : 401, body.length);
      exchange.getResponseBody().write(body);
      exchange.close();
    });
    server.start();
  }

  // An openid is printable ASCII, so only these two need escaping; use your JSON library for anything else.
  private static String quote(String text) {
    return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
  }
}
